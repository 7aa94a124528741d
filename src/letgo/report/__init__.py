"""What a run did, told on a page (`page.render`) and in files for papers (`figures`)."""
