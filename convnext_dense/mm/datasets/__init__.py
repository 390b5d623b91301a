"""Room of data sets: where they are, which classes they have, and what is done with bad files.

``paths``, ``custom_classes`` (own classes, checks at the start), ``transforms`` (reading that knows bad
files), ``repair`` (faults counted and mended), ``resumable_loader`` (the data of one optimizer step at a
time).
"""
