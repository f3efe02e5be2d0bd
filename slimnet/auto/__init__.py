"""All steps together: from a trained network and a task to a folder with networks to ship.

:func:`~slimnet.auto.way.run_auto` takes the steps in order (:mod:`.steps`): what can be cut, where
it hurts least, cut, repair, retrain, export, measure; the :mod:`.way` goes on where it was stopped.
A :mod:`.frontier` cuts to several times and shows the metric against measured milliseconds. Both
are made of the same :mod:`.pieces`. What is asked for is a :mod:`.request`; a speed is a budget of
time (:mod:`slimnet.timing`). Each step writes its file, and a line in the :mod:`.journal`; one page
says what was done and how to repeat it.
"""
