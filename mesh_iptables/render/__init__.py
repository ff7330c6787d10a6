"""A plan as text: for shells, restore programs, nft, programs and people."""
