"""Coupling: which channels live and die together.

Every index of every axis gets a label (:mod:`.labels`); one rule per operator says through
:mod:`.at` which labels are tied, pinned or approximate (:mod:`.constraints`), and another how an
output scales with a weight (:mod:`.scaling`). :mod:`.couple` runs the rules over a pass and solves
what they say, so that groups of a convolution lose the same number (:mod:`.balance`);
:mod:`.projections` are distributions that frozen weights read;
:mod:`.settle` decides what sizes stated in code hold, by what meets each of these
:mod:`.requirements`; :mod:`.groups` says what can be cut, and why not, and :mod:`.unread` what
no call reads. What a cut takes from one tensor is a :mod:`.removal`, and what it leaves of labelled
axes is their :mod:`.survival`.
"""
