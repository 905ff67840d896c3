"""The report of a batch: what a journal and its folder say, as a page, as JSON and as CSV.

Rows of the journal become one frozen value (`model.Report`); page and data are made of that value
alone. Nothing here is sent, and nothing in the journal is changed.
"""
