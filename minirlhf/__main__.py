from minirlhf.cli.main import main

main()
