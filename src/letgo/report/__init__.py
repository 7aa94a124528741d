"""The page of a finished run (`page.render`) and its figures for papers (`figures`)."""
