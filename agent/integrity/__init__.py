"""Keeping what is stored whole: seal it, look at it again, take what is damaged out of service.

``sealing`` completes a new object and writes down what it is; the workshop's guard asks a few files at each
hit whether it still stands; ``patrol`` compares an environment with its manifest once its workers have gone;
``verification`` reads every file when somebody asks. ``damage`` does what is to be done about their findings.
"""
