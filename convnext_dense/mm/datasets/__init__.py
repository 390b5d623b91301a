"""Data sets: where they are, which classes they have, and what is done with bad files.

``paths``, ``custom_classes`` (the user's own classes, checks at the start), ``transforms`` (reading that
handles bad files), ``checked_dataset`` (faults of annotation files counted and repaired), ``repair`` (configs
that use both), ``resumable_loader`` (the data of one optimizer step at a time).
"""
