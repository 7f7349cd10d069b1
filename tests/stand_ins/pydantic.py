"""Stands in for pydantic, which the stand-in of VectorDBBench needs: fields with defaults, by name."""


class BaseModel:
    def __init__(self, **values):
        fields = {name for kind in type(self).__mro__ for name in vars(kind).get("__annotations__", ())}
        assert set(values) <= fields, set(values) - fields
        vars(self).update(values)
