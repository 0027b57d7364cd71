"""``python -m modelvault``"""

from modelvault.cli.main import main

main()
