"""One thin command per kind of job: read parameters and artifacts, call zslib, publish one artifact."""
