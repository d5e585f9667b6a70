"""Entry point of `python -m catalyst`; the console command `catalyst` runs the same function."""

from catalyst.cli.app import main

if __name__ == "__main__":
    main()
