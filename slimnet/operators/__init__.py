"""Operators: one record for each, beside the functions that it names.

A file holds a family: element by element (:mod:`.pointwise`), elements in another order
(:mod:`.movement`, :mod:`.views`), more of them (:mod:`.joining`) or some (:mod:`.slicing`,
:mod:`.indexing`, :mod:`.patches`), sums of products (:mod:`.convolution`, in bands where memory is
short: :mod:`.bands`; :mod:`.products`, :mod:`.attention`, :mod:`.recurrent`, and what they share:
:mod:`.contraction`), statistics (:mod:`.norms`, :mod:`.reduction`), what runs along one axis
(:mod:`.orders`), windows over positions (:mod:`.windows`), new tensors (:mod:`.creation`), rounding
(:mod:`.quantised`). What families share stands in :mod:`.families`, and what their rules do with
axes in :mod:`.axes`.

Nothing imports these files: :mod:`slimnet.operator` loads them by name, as it loads plug-ins. To
add an operator: one record here, and one row of the law test in ``tests/operators.py``.
"""
