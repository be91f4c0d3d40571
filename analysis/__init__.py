"""From measurements to results: tables, statistical inference, figures and the report page."""
