"""An agent, and what its engine says of the partitions that are assigned to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from streamkit.observe.partition_state import PartitionState
from streamkit.observe.slots import AgentSlots
from streamkit.record import TopicPartition


class Assigned(NamedTuple):
    """An agent with one reading of its partitions."""

    agent: AgentSlots
    states: Mapping[TopicPartition, PartitionState]

    @classmethod
    def read(cls, agent: AgentSlots) -> Self:
        """As it is at present. From any thread."""
        assigned = agent.assigned
        states = agent.partitions()
        return cls(agent, {partition: state for partition, state in states.items() if partition in assigned})

    @property
    def topics(self) -> list[str]:
        """Its own ones, and those that partitions of are assigned."""
        return sorted({*self.agent.topics, *(partition.topic for partition in self.states)})
