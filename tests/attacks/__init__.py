"""What a thief may do to a model's file: damage to weights, quantisation, and changes of structure.

Each attack takes a path and writes the changed model to another path.
"""
