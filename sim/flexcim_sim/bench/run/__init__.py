"""From a configuration to a verdict: generate, build, play all tests, and write down what became of them."""
