"""What a run is: its settings, its data, its folder, and who may write there."""
