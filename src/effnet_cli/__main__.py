"""`python -m effnet_cli` is `effnet`."""

from effnet_cli.cli import main

if __name__ == "__main__":
    main()
