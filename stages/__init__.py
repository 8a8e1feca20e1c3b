"""One thin script per DVC stage: read declared params, read tables, one library call, write."""
