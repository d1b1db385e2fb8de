"""The asyncio engine: it acts on what core decides and knows the transport by its protocols only."""
