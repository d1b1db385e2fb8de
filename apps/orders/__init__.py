"""A shop's orders, through an agent of every shape: `streamkit dev apps.orders`."""

from apps.orders.agents import app, customers, imported, invoices, orders

__all__ = ["app", "customers", "imported", "invoices", "orders"]
