"""The same orders as types of pydantic and of Faust: in a module of their own, for only their sides import these."""

from __future__ import annotations

import faust
import pydantic


class PydanticItem(pydantic.BaseModel):
    sku: str
    qty: int


class PydanticOrder(pydantic.BaseModel):
    order_id: str
    account: str
    amount: float
    currency: str
    items: list[PydanticItem]
    ts: float
    total: float = 0.0


class FaustItem(faust.Record):
    sku: str
    qty: int


class FaustOrder(faust.Record):
    order_id: str
    account: str
    amount: float
    currency: str
    items: list[FaustItem]
    ts: float
    total: float = 0.0
