"""The HTML report: directories and a verification become views, views become one self-contained page."""
