"""Decisions without effects: no asyncio, clock, I/O, logging or randomness; time and chance are arguments."""
