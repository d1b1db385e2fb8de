"""The flights that left New York City in January 2013, through agents: `streamkit worker apps.flights:app`."""

from apps.flights.agents import app

__all__ = ["app"]
