"""The report: its form as strict models, its pictures and its charts, and the one page that shows them."""
