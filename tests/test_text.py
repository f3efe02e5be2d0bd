from slimnet.text import count


def test_grammar():
    assert count(1, "layer") == "1 layer"
    assert count(1200, "layer") == "1,200 layers"
