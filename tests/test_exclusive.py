"""What a process has once is changed by one thread at a time, and is as it was afterwards."""

from __future__ import annotations

import copy
import gc
import os
import random
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

import slimnet
from slimnet.capture.modules import no_collection
from slimnet.capture.randomness import drawing_from
from slimnet.capture.trace import fast_paths_off
from slimnet.exclusive import exclusive
from slimnet.export.backends.eager_torch import _threads


def in_another_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(timeout=60)


def test_two_threads_are_never_inside_at_once():
    inside, most, together = [], [], threading.Barrier(2, timeout=60)

    def enter():
        together.wait()
        for _ in range(200):
            with exclusive():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(enter) for _ in range(2)]:
            done.result(timeout=60)
    assert len(most) == 400 and set(most) == {1}


def test_another_thread_waits_until_the_outermost_is_left():
    order, waiting = [], threading.Event()

    def enter():
        waiting.set()
        with exclusive():
            order.append("other")

    with ThreadPoolExecutor(1) as pool:
        with exclusive():
            with exclusive():
                other = pool.submit(enter)
                waiting.wait(60)
                order.append("inner")
            order.append("outer")
        other.result(timeout=60)
    assert order == ["inner", "outer", "other"]


def test_an_exception_lets_the_next_one_in():
    with suppress(ValueError), exclusive():
        raise ValueError

    def enter():
        with exclusive():
            return "in"

    assert in_another_thread(enter) == "in"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_threads_that_it_does_not_have():
    held, done = threading.Event(), threading.Event()

    def hold():
        with exclusive():
            held.set()
            done.wait(60)

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        held.wait(60)
        child = os.fork()
        if not child:
            with exclusive():
                os._exit(7)
        done.set()
        holder.result(timeout=60)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


IMAGE = (torch.ones(2, 3, 4, 4),)


class Busy(nn.Module):
    """Reads an attribute as a size, makes a tensor of the default type, keeps what it saw."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)
        self.width, self.sizes, self.cache = 16, [3, 16], {}

    def forward(self, x):
        y = self.norm(self.a(x)).reshape(x.shape[0], self.width, -1, 1)
        self.cache[len(self.cache)] = y
        return self.b(y + torch.ones(1)).mean((2, 3))


def pruned(model):
    found = slimnet.prune(model, IMAGE, ratio=0.5, align=None)
    weights = [tensor.clone() for tensor in found.model.state_dict().values()]
    return found.model.width, found.model.training, found.certificate.error, weights


@pytest.mark.parametrize("shared", [True, False])
def test_threads_that_prune_at_once_do_not_disturb_each_other(shared):
    torch.manual_seed(0)
    model = Busy().train()
    models = [model, model if shared else copy.deepcopy(model)]
    filters, together = list(warnings.filters), threading.Barrier(2, timeout=60)

    def prune_twice(given):
        together.wait()
        return [pruned(given) for _ in range(2)]

    with ThreadPoolExecutor(2) as pool:
        found = [r for done in pool.map(prune_twice, models, timeout=120) for r in done]
    width, training, error, weights = pruned(model)
    for other in found:
        assert other[:3] == (width, training, error) == (8, True, error)
        assert all(map(torch.equal, other[3], weights))
    assert all(m.training for m in model.modules()) and type(model.width) is int
    assert model.cache == {} and all(type(n) is int for n in model.sizes)
    assert torch.get_default_dtype() == torch.float32 and gc.isenabled()
    assert torch.backends.mha.get_fastpath_enabled() and warnings.filters == filters


def test_two_threads_draw_from_their_own_seeds_and_leave_the_generators_as_they_were():
    torch.manual_seed(7)
    before, together = torch.get_rng_state(), threading.Barrier(2, timeout=60)

    def drawn(seed):
        together.wait()
        found = []
        for _ in range(50):
            with drawing_from(seed):
                with drawing_from(9):
                    torch.rand(1)
                found.append((float(torch.rand(1)), random.random(), float(np.random.rand())))
        return found

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(drawn, (1, 2), timeout=60)
    assert len(set(one)) == len(set(other)) == 1 and one[0] != other[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_two_threads_switch_torch_one_after_the_other_and_back():
    before, threads = torch.backends.mha.get_fastpath_enabled(), torch.get_num_threads()
    together = threading.Barrier(2, timeout=60)

    def switched(count):
        together.wait()
        for _ in range(50):
            with fast_paths_off(), fast_paths_off(), _threads(count), no_collection():
                assert not torch.backends.mha.get_fastpath_enabled() and not gc.isenabled()
                assert torch.get_num_threads() == count

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(switched, (1, 2), timeout=60))
    assert torch.backends.mha.get_fastpath_enabled() == before and gc.isenabled()
    assert torch.get_num_threads() == threads


class Calling(nn.Module):
    """Lets another thread call a scripted part of it while it runs itself."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 1)
        self.loss = torch.jit.script(nn.ReLU())

    def forward(self, x):
        in_another_thread(lambda: self.loss(torch.ones(1)))
        return self.a(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_what_another_thread_calls_is_not_taken_for_a_part_of_the_pass():
    inspection = slimnet.inspect(Calling().eval(), IMAGE)
    assert inspection.layers[0].name == "a"
