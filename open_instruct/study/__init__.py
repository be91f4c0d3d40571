"""A study: its file, its grid of models, the plan of jobs, their execution, progress and cost."""
