"""Metrics, lag, health and the HTTP server, measured from a thread of their own."""
