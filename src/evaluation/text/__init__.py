"""The tables, macros and pages of the paper, as LaTeX, Markdown and JSON. Decides nothing."""
