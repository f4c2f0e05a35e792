from minirlhf.cli import main

main()
