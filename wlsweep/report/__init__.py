"""The page: figures on plain data (`figures`), one self-contained HTML file (`page`), the same as PNG (`png`)."""
