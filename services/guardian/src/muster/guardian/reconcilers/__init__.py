"""Loops: frames in, decisions carried out, silence noticed, one leader at a time."""
