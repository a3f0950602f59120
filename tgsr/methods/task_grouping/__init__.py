"""TGSR: find the tasks a network fails on, group them, fine-tune on the groups."""
