import sys

try:
    from minirlhf.cli.main import main

    main()
except KeyboardInterrupt:  # Ctrl-C while the program still loads
    sys.exit(130)
