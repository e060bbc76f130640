"""`muster demo`: three coding tasks on a stack of their own, and the proof that each was really done."""
