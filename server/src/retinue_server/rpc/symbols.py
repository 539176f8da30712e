"""What reflection finds by name."""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool


class Symbols:
    """Protobuf's own pool of descriptors, which also finds the file of a method.

    grpcurl asks for methods by name when it is to describe one, and protobuf's pool knows only those of services,
    messages, their fields and enums.
    """

    def __init__(self) -> None:
        pool: DescriptorPool = Default()
        self._pool = pool
        self.FindFileByName = pool.FindFileByName
        self.FindMessageTypeByName = pool.FindMessageTypeByName
        self.FindExtensionByNumber = pool.FindExtensionByNumber
        self.FindAllExtensions = pool.FindAllExtensions

    def FindFileContainingSymbol(self, name: str) -> FileDescriptor:
        """The file in which the name is declared.

        Raises:
            KeyError: None that this process knows.
        """
        try:
            return self._pool.FindFileContainingSymbol(name)
        except KeyError:
            return self._pool.FindMethodByName(name).containing_service.file
