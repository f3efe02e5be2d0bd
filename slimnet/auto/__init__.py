"""The whole way: from a trained network and a task to a folder with a network to ship.

:func:`~slimnet.auto.way.run_auto` takes the steps in order (:mod:`.steps`): what can be cut, where
it hurts least, cut, repair, retrain, export, measure. What is asked for is a :mod:`.request`; a
speed is a budget of time (:mod:`slimnet.timing`). Each step writes its file, and a line in the
:mod:`.journal`, so that the :mod:`.way` goes on where it was stopped; one page says what was
done and how to repeat it.
"""
