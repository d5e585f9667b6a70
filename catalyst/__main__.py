"""`python -m catalyst`, and the console command `catalyst`."""

from catalyst.cli.app import main

if __name__ == "__main__":
    main()
