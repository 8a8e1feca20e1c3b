"""Stage `report`: everything that the run has made, on one page."""

from pathlib import Path

from bclef.frontend import FrontEndConfig
from bclef.report import write_report
from bclef.reportinputs import read_report_inputs
from bclef.stage import stage

if __name__ == "__main__":
    with stage("report") as run:
        front_end = run.params.section(FrontEndConfig, "frontend")
        sample_rate_hz = run.params.value("audio.sample_rate_hz", int)
        write_report(
            read_report_inputs(Path(), front_end, sample_rate_hz), Path("reports/index.html")
        )
