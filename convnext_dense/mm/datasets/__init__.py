"""Data sets: where they are, which classes they have, and what is done with bad files.

``paths``, ``custom_classes`` (the user's own classes, checks at the start), ``transforms`` (reading that
handles bad files), ``repair`` (faults counted and repaired), ``resumable_loader`` (the data of one optimizer
step at a time).
"""
