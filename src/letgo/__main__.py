"""`python -m letgo`, for launchers of modules: `accelerate launch -m letgo score ...`."""

from letgo.cli import main

if __name__ == "__main__":
    main()
