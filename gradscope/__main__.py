"""``python -m gradscope`` is the command ``gradscope``."""

from gradscope_cli.main import main

if __name__ == "__main__":
    main()
