"""Looking at what would be forgotten, and deciding: in the browser and in the terminal."""
