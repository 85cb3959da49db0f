"""Reports: tables, pictures, pages."""
