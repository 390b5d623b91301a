"""Checkpoints: from a name, URL or file to tensors in our names, and back.

``fetch`` (where it is) and ``download``, ``read`` and ``safe_pickle`` (its tensors), ``namings`` (tables
of names), ``load`` (into a model, exactly), ``roadmap`` (a ResNet-50 into its steps), ``convert`` (to
the names of other code bases), ``other_libraries`` (ConvNeXt as they build it), ``classify`` (checks
that weights work).
"""
