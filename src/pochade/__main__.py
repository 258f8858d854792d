from pochade.cli import main

main()
