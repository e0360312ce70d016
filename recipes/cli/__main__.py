from recipes.cli.main import main

main()
