"""`python -m zslib.cli`: the command `zslib`."""

from zslib.cli import main

if __name__ == "__main__":
    main()
