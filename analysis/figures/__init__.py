"""The study's figures: panels of curves over checkpoints, drawn by matplotlib or passed to Plotly."""
