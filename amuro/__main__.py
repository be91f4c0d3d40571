"""`python -m amuro`, for launchers: `accelerate launch -m amuro finetune …`."""

from amuro import main

main()
